package andon.peers;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.triggers.Trigger;
import org.apache.flink.streaming.api.windowing.triggers.TriggerResult;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Flink: expand to keys, key by them in the process, aggregate in windows of event time.
 *
 * <p>State is on the heap, with a checkpoint every five seconds. The topic is read to its end: then
 * the job ends by itself, and what was not sent yet is.
 */
public final class FlinkPeer {
  private static final long CHECKPOINT_MS = 5_000;
  private static final long DISORDER_MS = 2_000;

  private FlinkPeer() {}

  /** What an event adds to one key. */
  public static final class Change {
    public String key;
    public long timeMs;
    public Sums sums;

    public Change() {}

    Change(String key, long timeMs, Sums sums) {
      this.key = key;
      this.timeMs = timeMs;
      this.sums = sums;
    }
  }

  /** A key, a window and its sums, as they are sent. */
  public static final class Update {
    public String key;
    public String sums;

    public Update() {}

    Update(String key, String sums) {
      this.key = key;
      this.sums = sums;
    }
  }

  public static void main(String[] args) throws Exception {
    StreamExecutionEnvironment flow =
        StreamExecutionEnvironment.createLocalEnvironment(
            Integer.getInteger("andon.peer.parallelism", 1), settings());
    flow.getConfig().enableObjectReuse();
    WatermarkStrategy<Event> times =
        WatermarkStrategy.<Event>forBoundedOutOfOrderness(Duration.ofMillis(DISORDER_MS))
            .withTimestampAssigner((event, before) -> event.timeMs);
    DataStream<Update> updates =
        flow.fromSource(source(), times, "events")
            .flatMap(
                (Event event, Collector<Change> out) ->
                    event.each(
                        (key, sums) -> out.collect(new Change(key, event.timeMs, sums))))
            .returns(Change.class)
            .keyBy(change -> change.key)
            .window(TumblingEventTimeWindows.of(Duration.ofMillis(Task.WINDOW_MS)))
            .allowedLateness(Duration.ofMillis(Task.GRACE_MS))
            .trigger(new Regularly())
            .aggregate(new AddUp(), new Emit());
    updates.sinkTo(sink());
    flow.execute("peer");
  }

  private static Configuration settings() {
    Configuration settings = new Configuration();
    settings.setString("rest.bind-port", "0");
    settings.setString("state.backend.type", "hashmap");
    settings.setString("execution.checkpointing.interval", CHECKPOINT_MS + "ms");
    settings.setString("execution.checkpointing.storage", "filesystem");
    settings.setString(
        "execution.checkpointing.dir", new File(Task.STATE_DIR, "checkpoints").toURI().toString());
    return settings;
  }

  private static KafkaSource<Event> source() throws IOException {
    return KafkaSource.<Event>builder()
        .setBootstrapServers(Task.BROKERS)
        .setTopics(Task.TOPIC)
        .setGroupId(Task.ID)
        .setStartingOffsets(OffsetsInitializer.earliest())
        .setBounded(OffsetsInitializer.latest())
        .setValueOnlyDeserializer(new Decode(Task.schema()))
        .build();
  }

  private static KafkaSink<Update> sink() {
    return KafkaSink.<Update>builder()
        .setBootstrapServers(Task.BROKERS)
        .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .setProperty("compression.type", "lz4")
        .setProperty("linger.ms", "50")
        .setProperty("batch.size", "131072")
        .setRecordSerializer(
            KafkaRecordSerializationSchema.<Update>builder()
                .setTopic(Task.OUTPUT)
                .setKeySerializationSchema(new Key())
                .setValueSerializationSchema(new Value())
                .build())
        .build();
  }

  private static final class Key implements SerializationSchema<Update> {
    @Override
    public byte[] serialize(Update update) {
      return update.key.getBytes(StandardCharsets.UTF_8);
    }
  }

  private static final class Value implements SerializationSchema<Update> {
    @Override
    public byte[] serialize(Update update) {
      return update.sums.getBytes(StandardCharsets.UTF_8);
    }
  }

  private static final class Decode implements DeserializationSchema<Event> {
    private final String schema;
    private transient Event.Reader reader;

    Decode(String schema) {
      this.schema = schema;
    }

    @Override
    public void open(InitializationContext context) {
      reader = new Event.Reader(schema);
    }

    @Override
    public Event deserialize(byte[] value) throws IOException {
      return reader.read(value);
    }

    @Override
    public boolean isEndOfStream(Event event) {
      return false;
    }

    @Override
    public TypeInformation<Event> getProducedType() {
      return TypeInformation.of(Event.class);
    }
  }

  private static final class AddUp implements AggregateFunction<Change, Sums, Sums> {
    @Override
    public Sums createAccumulator() {
      return new Sums();
    }

    @Override
    public Sums add(Change change, Sums sums) {
      sums.add(change.sums);
      Task.folded();
      return sums;
    }

    @Override
    public Sums getResult(Sums sums) {
      return sums;
    }

    @Override
    public Sums merge(Sums one, Sums other) {
      return one.add(other);
    }
  }

  private static final class Emit extends ProcessWindowFunction<Sums, Update, String, TimeWindow> {
    @Override
    public void process(String key, Context context, Iterable<Sums> found, Collector<Update> out) {
      for (Sums sums : found) {
        out.collect(new Update(key + "|" + context.window().getStart(), sums.toString()));
      }
    }
  }

  /**
   * Fires a window within half a second of the clock after it has changed, and at its end what is
   * left. Flink's own trigger for this bounds its timers by the end of the window: on a stream of
   * the past it fires once.
   */
  private static final class Regularly extends Trigger<Change, TimeWindow> {
    private final ValueStateDescriptor<Boolean> changed =
        new ValueStateDescriptor<>("changed", Boolean.class);

    @Override
    public TriggerResult onElement(
        Change change, long timeMs, TimeWindow window, TriggerContext context) throws Exception {
      ValueState<Boolean> known = context.getPartitionedState(changed);
      if (known.value() == null) {
        known.update(true);
        long now = context.getCurrentProcessingTime();
        context.registerProcessingTimeTimer(now - now % Task.EMIT_MS + Task.EMIT_MS);
      }
      return TriggerResult.CONTINUE;
    }

    @Override
    public TriggerResult onProcessingTime(long timeMs, TimeWindow window, TriggerContext context)
        throws Exception {
      return fireIfChanged(context);
    }

    @Override
    public TriggerResult onEventTime(long timeMs, TimeWindow window, TriggerContext context)
        throws Exception {
      return fireIfChanged(context);
    }

    private TriggerResult fireIfChanged(TriggerContext context) throws Exception {
      ValueState<Boolean> known = context.getPartitionedState(changed);
      if (known.value() == null) {
        return TriggerResult.CONTINUE;
      }
      known.clear();
      return TriggerResult.FIRE;
    }

    @Override
    public void clear(TimeWindow window, TriggerContext context) throws Exception {
      context.getPartitionedState(changed).clear();
    }
  }
}
