"""Agents: training in the dream, evaluation in the dream and in reality."""
