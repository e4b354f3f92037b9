"""Replicas of one server behind a router."""
