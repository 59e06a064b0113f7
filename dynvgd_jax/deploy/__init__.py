"""A steered policy outside of training: raw observations in, raw actions out."""
