package andon.peers;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Kafka Streams, in its DSL: expand to keys, group by them through Kafka, aggregate in windows.
 *
 * <p>State is in RocksDB with a changelog; the cache before it emits with every commit.
 */
public final class KafkaStreamsPeer {
  private static final Serde<Sums> SUMS =
      Serdes.serdeFrom(
          (topic, sums) -> sums == null ? null : sums.toBytes(),
          (topic, bytes) -> bytes == null ? null : Sums.of(bytes));

  private KafkaStreamsPeer() {}

  public static void main(String[] args) throws Exception {
    CountDownLatch done = new CountDownLatch(1);
    try (KafkaStreams streams = new KafkaStreams(topology(done).build(), settings())) {
      streams.setUncaughtExceptionHandler(
          problem -> {
            problem.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
          });
      streams.start();
      done.await();
      // Closing commits, and so sends what has changed since.
      streams.close(Duration.ofMinutes(1));
    }
  }

  private static StreamsBuilder topology(CountDownLatch done) throws IOException {
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(Task.TOPIC, Consumed.with(Serdes.ByteArray(), events())
            .withTimestampExtractor((record, before) -> ((Event) record.value()).timeMs))
        .flatMap((key, event) -> changes(event))
        .groupByKey(Grouped.with("by-key", Serdes.String(), SUMS))
        .windowedBy(
            TimeWindows.ofSizeAndGrace(
                Duration.ofMillis(Task.WINDOW_MS), Duration.ofMillis(Task.GRACE_MS)))
        .aggregate(
            Sums::new,
            (key, change, sums) -> {
              sums.add(change);
              if (Task.folded()) {
                done.countDown();
              }
              return sums;
            },
            Materialized.<String, Sums, WindowStore<Bytes, byte[]>>as("sums")
                .withKeySerde(Serdes.String())
                .withValueSerde(SUMS))
        .toStream((windowed, sums) -> windowed.key() + "|" + windowed.window().start())
        .mapValues(Sums::toString)
        .to(Task.OUTPUT, Produced.with(Serdes.String(), Serdes.String()));
    return builder;
  }

  private static List<KeyValue<String, Sums>> changes(Event event) {
    List<KeyValue<String, Sums>> found = new ArrayList<>(5);
    event.each((key, sums) -> found.add(KeyValue.pair(key, sums)));
    return found;
  }

  private static Serde<Event> events() throws IOException {
    String schema = Task.schema();
    ThreadLocal<Event.Reader> reader = ThreadLocal.withInitial(() -> new Event.Reader(schema));
    Deserializer<Event> read =
        (topic, value) -> {
          try {
            return reader.get().read(value);
          } catch (IOException problem) {
            throw new UncheckedIOException(problem);
          }
        };
    return Serdes.serdeFrom((topic, event) -> null, read);
  }

  private static Properties settings() {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, Task.ID);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, Task.BROKERS);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, Task.STATE_DIR);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, "2");
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, String.valueOf(Task.EMIT_MS));
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, String.valueOf(100L << 20));
    settings.put("consumer.auto.offset.reset", "earliest");
    settings.put("producer.compression.type", "lz4");
    settings.put("producer.linger.ms", "100");
    settings.put("producer.batch.size", "131072");
    return settings;
  }
}
