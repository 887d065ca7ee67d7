// An HTTP server and an HTTP client of Go's standard library, whose network poller and blocking threads are its own.
//
// `serve ADDRESS TEXT` answers every request with the text and the body that it came with. `get URL TEXT` asks several
// times at once over connections that are kept, then once for a long body, and ends with 0 when every answer was right.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	clients  = 4
	requests = 10
	patience = 60 * time.Second
	long     = 1 << 20
)

func main() {
	if len(os.Args) != 4 {
		fail(fmt.Errorf("usage: %s serve ADDRESS TEXT | get URL TEXT", os.Args[0]))
	}
	role, where, text := os.Args[1], os.Args[2], os.Args[3]
	switch role {
	case "serve":
		fail(http.ListenAndServe(where, answer(text)))
	case "get":
		if err := get(where, text); err != nil {
			fail(err)
		}
	default:
		fail(fmt.Errorf("no role %q", role))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func answer(text string) http.HandlerFunc {
	return func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(writer, text)
		writer.Write(body)
	}
}

func get(url, text string) error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	results := make(chan error, clients)
	for number := 0; number < clients; number++ {
		go func(number int) { results <- askOften(client, url, text, number) }(number)
	}
	for number := 0; number < clients; number++ {
		if err := <-results; err != nil {
			return err
		}
	}
	return ask(client, url, text, strings.Repeat(text, long/len(text)))
}

func askOften(client *http.Client, url, text string, number int) error {
	for request := 0; request < requests; request++ {
		if err := ask(client, url, text, fmt.Sprintf("%s %d %d", text, number, request)); err != nil {
			return err
		}
	}
	return nil
}

func ask(client *http.Client, url, text, body string) error {
	response, err := client.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if string(got) != text+body {
		return fmt.Errorf("the answer of %d bytes is wrong: %.100s", len(got), got)
	}
	return nil
}
