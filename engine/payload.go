package engine

// Payload is an event's payload as a backend keeps it that stores bytes: see [Caps].
// It is immutable.
type Payload struct {
	// Encoding names the form of Bytes: [EncodingBytes], [EncodingText], or a codec's name.
	// At most 32 bytes of ASCII without control characters.
	Encoding string
	// Schema is the version of the event type's shape; the first is 1.
	Schema uint16
	Bytes  []byte
}

const (
	// EncodingBytes is a payload of type []byte as it is.
	EncodingBytes = "bytes"
	// EncodingText is a payload of type string as it is.
	EncodingText = "text"
	// EncodingJSON is JSON: the codec that every engine has.
	EncodingJSON = "json"
)
