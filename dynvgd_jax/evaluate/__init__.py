"""Evaluation by itself: any checkpoint or policy, on any list of episodes."""
