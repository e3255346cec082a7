"""Whole experiments made of the other rooms: the few-shot comparison and the quickstart."""
