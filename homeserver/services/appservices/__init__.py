"""Application services: who they are, what they are sent, and what they are asked."""
