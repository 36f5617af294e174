"""Probes: single forward passes on recorded inputs, which no chaos reaches."""
