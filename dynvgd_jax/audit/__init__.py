"""The critic audit: what critics say about actions beside what actions bring.

`branch` plays, `measure` counts, `page` shows; `subject` is a saved run, `__main__` the
command line. docs/audit.md tells how to read the page.
"""
