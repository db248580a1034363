"""What every other package may use; imports nothing but the run store."""
