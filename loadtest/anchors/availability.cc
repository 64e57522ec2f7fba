// The anchor of availability reads: a C++ gRPC callback server that does the same look-up and
// fills the same fields. Usage: availability PORT POSITIONS, where POSITIONS has a line
// "sku node on_hand committed held safety_stock" for each position.
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <unordered_map>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "promise_svc/v1/availability_service.grpc.pb.h"

namespace pb = promise_svc::v1;

struct Position {
  std::string node;
  int64_t on_hand, committed, held, safety_stock;
  int64_t ats() const { return std::max<int64_t>(0, on_hand - committed - held - safety_stock); }
};

static std::unordered_map<std::string, std::vector<Position>> table;

static uint32_t shard_of(const std::string& key) {
  uint64_t value = 0xCBF29CE484222325u;
  for (unsigned char byte : key) value = (value ^ byte) * 0x100000001B3u;
  value ^= value >> 33; value *= 0xFF51AFD7ED558CCDu;
  value ^= value >> 33; value *= 0xC4CEB9FE1A85EC53u;
  return static_cast<uint32_t>((value ^ (value >> 33)) % 64);
}

static void set_now(google::protobuf::Timestamp* time) {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  time->set_seconds(ns / 1000000000);
  time->set_nanos(static_cast<int32_t>(ns % 1000000000));
}

static void answer(const pb::AvailabilityQuery& query, bool nodes, pb::Availability* to) {
  to->set_entry_id(query.entry_id());
  to->set_sku(query.sku());
  auto* as_of = to->mutable_as_of();
  as_of->set_shard_id(static_cast<int32_t>(shard_of(query.sku())));
  as_of->set_epoch(1);
  as_of->set_sequence(1);
  set_now(as_of->mutable_as_of_time());
  auto found = table.find(query.sku());
  if (found == table.end()) {
    to->set_outcome(pb::AVAILABILITY_OUTCOME_UNKNOWN_SKU);
    return;
  }
  to->set_outcome(pb::AVAILABILITY_OUTCOME_OK);
  int64_t sum = 0;
  if (query.has_nodes()) {
    for (const auto& node : query.nodes().node_ids()) {
      int64_t ats = 0;
      for (const auto& position : found->second)
        if (position.node == node) { ats = position.ats(); break; }
      sum += ats;
      if (nodes) { auto* at = to->add_nodes(); at->set_node_id(node); at->set_ats(ats); }
    }
  } else {
    for (const auto& position : found->second) {
      sum += position.ats();
      if (nodes) { auto* at = to->add_nodes(); at->set_node_id(position.node); at->set_ats(position.ats()); }
    }
  }
  to->set_ats(sum);
}

class Service final : public pb::AvailabilityService::CallbackService {
  grpc::ServerUnaryReactor* QueryAvailability(grpc::CallbackServerContext* context,
                                              const pb::QueryAvailabilityRequest* request,
                                              pb::QueryAvailabilityResponse* reply) override {
    bool nodes = request->view() == pb::AVAILABILITY_VIEW_NODES;
    for (const auto& query : request->entries()) answer(query, nodes, reply->add_entries());
    set_now(reply->mutable_freshness()->mutable_as_of_time());
    reply->mutable_freshness()->mutable_age();
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

int main(int count, char** arguments) {
  if (count != 3) { std::cerr << "usage: availability PORT POSITIONS\n"; return 2; }
  std::ifstream file(arguments[2]);
  std::string sku;
  Position position;
  while (file >> sku >> position.node >> position.on_hand >> position.committed >> position.held >>
         position.safety_stock)
    table[sku].push_back(position);
  Service service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string("127.0.0.1:") + arguments[1],
                           grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  std::cout << "serving " << table.size() << " SKUs" << std::endl;
  server->Wait();
}
