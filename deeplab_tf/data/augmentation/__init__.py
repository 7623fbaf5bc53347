"""Augmentation of images together with their labels."""
