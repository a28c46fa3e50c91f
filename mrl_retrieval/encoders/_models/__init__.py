"""What the model registry is made of: the table, what the table rests on, and how models outside of it are read."""
