"""What a trained mask model does: the analyses of the MaX-DeepLab paper, 4.3 and A.3 to A.5."""
