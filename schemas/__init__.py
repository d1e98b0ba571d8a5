"""Contracts; imports nothing of ours."""
