package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// encryptedPDU is like an event of 1.5 KB in a room that is encrypted.
func encryptedPDU(origin spec.ServerName) json.RawMessage {
	secret := func(bytes int) string {
		raw := make([]byte, bytes)
		_, _ = rand.Read(raw) // never fails
		return base64.RawStdEncoding.EncodeToString(raw)
	}
	return fmt.Appendf(nil, `{"auth_events":["$%s","$%s","$%s"],"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"%s",`+
		`"device_id":"ABCDEFGHIJ","sender_key":"%s","session_id":"%s"},"depth":1207,"hashes":{"sha256":"%s"},"origin_server_ts":1766620800000,`+
		`"prev_events":["$%s"],"room_id":"!%s:%s","sender":"@user:%s","signatures":{"%s":{"ed25519:1":"%s"}},"type":"m.room.encrypted"}`,
		secret(32), secret(32), secret(32), secret(390), secret(32), secret(32), secret(32), secret(32), secret(12), origin, origin, origin, secret(64))
}
