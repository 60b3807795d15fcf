"""Training of LoRAs: low-rank changes of a checkpoint's UNet, learnt from images with captions.

A folder for each family says what differs between them; `family.py` finds them. A run reads a folder of images and
keeps all of its progress in a state folder, from which it resumes after any kind of death. Hu et al. 2021, "LoRA".
"""
