"""Protobuf <-> values of the application, with a field path in every complaint.

One module a service, named as its proto, on top of ``fields`` (checks) and ``types`` (messages
that several services share). Each ``..._from`` checks everything the contract says about the
request in itself and raises one InvalidRequest that names all wrong fields.
"""
