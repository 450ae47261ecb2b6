"""What places the flows on machines."""
