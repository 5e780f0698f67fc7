"""What is decided: documents, contracts and the two workflows.

Imports only the standard library, temporalio and pydantic.
"""
