"""What `pages.py` puts into the pages: a table for each function, made from committed results."""
