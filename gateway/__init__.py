"""The shell: it owns every socket, clock and third-party client, and asks `policies` what to do."""
