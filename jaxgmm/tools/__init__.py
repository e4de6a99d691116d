"""What knows no mixture."""
