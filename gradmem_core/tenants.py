"""Names of tenants: memories of one are nobody else's."""

DEFAULT_TENANT = "default"
"The tenant of memories that name none."
TENANT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"Names that a tenant may have."
OWN_PREFIX = "gradmem-"
"Beginning of the names under which the service keeps memories of its own: no key opens them."
