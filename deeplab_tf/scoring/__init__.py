"""From files to scores, and files for test servers."""
