"""The specification of the Functions, one file for each of theirs."""

from promise_svc.domain.ledger.shard_ledger import ShardLedger

__all__ = ["ShardLedger"]
