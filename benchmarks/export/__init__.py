"""How much memory the export of a large training set takes, through the gateway's own API."""
