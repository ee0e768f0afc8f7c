"""A synthetic world to try `migrate` on: people, their objects, and the folders that stand for the sites."""
