"""A page and figures of finished and unfinished runs, read from their files alone."""
