"""The service on Ray Serve: WRITE and READ on replicas of their own, many machines."""
