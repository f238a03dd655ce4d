"""Networks, endpoints and addresses, as calls of Docker create and delete them."""
