"""Losses and update rules of the learners that are more than one forward pass: they need target networks."""
