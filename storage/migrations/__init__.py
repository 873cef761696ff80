"""Alembic's folder. A revision's id is the four digits its file begins with, and they only count up."""
