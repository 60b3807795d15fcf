"""The sixteen modes of editing as data: what each needs, its defaults, and the prompt that it makes of a client's.

They depend on no model. Names and descriptions are those of the service that clients know them from.
"""
