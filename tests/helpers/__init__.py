"""What tests of several folders share: small data, small networks, short runs."""
