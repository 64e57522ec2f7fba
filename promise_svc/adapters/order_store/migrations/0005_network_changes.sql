CREATE INDEX network_documents_by_version ON network_documents (version);
