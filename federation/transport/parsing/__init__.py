"""What other servers send, cut and parsed: transactions that come in, answers to requests."""
