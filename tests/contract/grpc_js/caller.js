// Drives the service of raw bytes with @grpc/grpc-js and prints what it saw, as one line of JSON.
const grpc = require('@grpc/grpc-js');

const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({
  path: `/tests.Bytes/${name}`, requestStream, responseStream,
  requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
});
const Client = grpc.makeGenericClientConstructor({
  unary: method('Unary', false, false), replies: method('Replies', false, true),
  requests: method('Requests', true, false), both: method('Both', true, true),
  nothing: method('Nothing', false, false),
}, 'Bytes');
const client = new Client(process.argv[2], grpc.credentials.createInsecure());

const unary = (name, body, options = {}, metadata = new grpc.Metadata()) =>
  new Promise((resolve) => {
    let trailing;
    const call = client[name](Buffer.from(body), metadata, options, (error, reply) =>
      setImmediate(() => resolve({ code: error ? error.code : 0, details: error && error.details,
        reply: reply && reply.toString(), trailing })));
    call.on('status', (status) => { trailing = status.metadata.getMap(); });
  });
const collected = (stream) => new Promise((resolve) => {
  const got = [];
  stream.on('data', (data) => got.push(data.toString()));
  stream.on('error', (error) => resolve({ code: error.code, got }));
  stream.on('end', () => resolve({ code: 0, got }));
});

(async () => {
  const seen = {};
  seen.unary = await unary('unary', 'hello');
  seen.large = (await unary('unary', 'x'.repeat(1000000))).reply.length;
  seen.nothing = await unary('nothing', '');
  seen.refused = await unary('unary', 'refuse');
  seen.late = await unary('unary', 'stuck', { deadline: Date.now() + 200 });
  seen.replies = await collected(client.replies(Buffer.from('a,b,c')));
  seen.requests = await new Promise((resolve) => {
    const call = client.requests((error, reply) => resolve({ code: error ? error.code : 0,
      reply: reply && reply.toString() }));
    ['a', 'b'].forEach((part) => call.write(Buffer.from(part)));
    call.end();
  });
  const both = client.both();
  const heard = collected(both);
  ['1', '2', '3'].forEach((part) => both.write(Buffer.from(part)));
  both.end();
  seen.both = await heard;
  seen.many = (await Promise.all([...Array(200).keys()].map((n) => unary('unary', String(n)))))
    .every((answer, n) => answer.reply === String(n));
  console.log(JSON.stringify(seen));
  client.close();
})();
