"""READ: answers to queries from memories."""
