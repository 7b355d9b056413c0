"""The second process of the router service: runs the active plan policy and tells the nodes what should run."""
