"""Operator tables of aiconfigurator-core become ours."""
