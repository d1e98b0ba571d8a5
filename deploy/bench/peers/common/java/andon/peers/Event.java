package andon.peers;

import java.io.IOException;
import java.util.function.BiConsumer;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;

/** What the job needs of an interaction. Public and with setters for nothing: Flink's rules for POJOs. */
public final class Event {
  private static final long THRESHOLD_MS = 20_000;

  public long timeMs;
  public String queue;
  public String team;
  public String issue;
  public String agent;
  public Sums sums = new Sums();

  public Event() {}

  /** Hands over `scope|key` of all that the event counts in, with what it adds. */
  public void each(BiConsumer<String, Sums> take) {
    take.accept("overall|all", sums);
    one(take, "queue|", queue);
    one(take, "team|", team);
    one(take, "issue|", issue);
    one(take, "agent|", agent);
  }

  private void one(BiConsumer<String, Sums> take, String scope, String name) {
    if (name != null) {
      take.accept(scope + name, sums);
    }
  }

  /** Decodes framed values; of one thread. */
  public static final class Reader {
    private static final int FRAMING_BYTES = 5;

    private final GenericDatumReader<GenericRecord> reader;
    private final int time;
    private final int type;
    private final int[] ids;
    private final int[] numbers;
    private BinaryDecoder decoder;
    private GenericRecord record;

    public Reader(String text) {
      Schema schema = new Schema.Parser().parse(text);
      reader = new GenericDatumReader<>(schema);
      time = schema.getField("event_time").pos();
      type = schema.getField("event_type").pos();
      ids = places(schema, "queue_id", "team_id", "issue_id", "agent_id");
      numbers = places(schema, "queue_wait_ms", "talk_ms", "hold_ms", "after_contact_work_ms");
    }

    private static int[] places(Schema schema, String... names) {
      int[] places = new int[names.length];
      for (int i = 0; i < names.length; i++) {
        places[i] = schema.getField(names[i]).pos();
      }
      return places;
    }

    public Event read(byte[] value) throws IOException {
      Task.read();
      decoder =
          DecoderFactory.get()
              .binaryDecoder(value, FRAMING_BYTES, value.length - FRAMING_BYTES, decoder);
      record = reader.read(record, decoder);
      Event event = new Event();
      event.timeMs = (Long) record.get(time);
      event.queue = text(ids[0]);
      event.team = text(ids[1]);
      event.issue = text(ids[2]);
      event.agent = text(ids[3]);
      fill(event.sums, record.get(type).toString());
      return event;
    }

    private void fill(Sums sums, String kind) {
      sums.events = 1;
      switch (kind) {
        case "OFFERED" -> sums.offered = 1;
        case "ANSWERED" -> {
          sums.answered = 1;
          sums.wait = number(numbers[0]);
          boolean known = record.get(numbers[0]) != null;
          sums.inTime = known && sums.wait <= THRESHOLD_MS ? 1 : 0;
        }
        case "COMPLETED" -> {
          sums.talk = number(numbers[1]);
          sums.hold = number(numbers[2]);
          sums.after = number(numbers[3]);
        }
        default -> {}
      }
    }

    private String text(int place) {
      Object value = record.get(place);
      return value == null ? null : value.toString();
    }

    private long number(int place) {
      Object value = record.get(place);
      return value == null ? 0 : (Long) value;
    }
  }
}
