"""Changing policies without a model: a vocabulary of terms and operators on syntax trees. Every result is a valid policy."""
