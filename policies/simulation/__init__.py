"""A fleet of arithmetic: workloads, engines, gateways that run the very code of `policies/`, and their faults."""
