"""The critic audit: what critics say about actions beside what actions bring.

`subject` is a saved run, `branch` plays, `measure` counts; `page`, `tables` and `files`
show it; `run` is all of that, `command` the command line. docs/audit.md tells how to
read the page.
"""
