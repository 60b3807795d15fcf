"""A toy family: fills images with a colour. It is what the recipe in docs/add-a-family.md shows."""
