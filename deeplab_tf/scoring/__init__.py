"""Scores of predictions in files, and submissions for test servers."""
