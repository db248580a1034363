"""What to ask for next time, learned from what attempts used."""
