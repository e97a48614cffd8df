"""Calls between services, as modules report them. A Django app that neither core depends on."""
