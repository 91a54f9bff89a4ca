"""What Flower ships: imports of the package installed on each machine."""
