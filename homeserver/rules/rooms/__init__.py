"""What makes, merges, upgrades and lists rooms, and who may join them."""
