/* Resolves names as applications do: getaddrinfo() for both families, which asks for A and AAAA at once.
 * One line for each name: the name, and its addresses in the order of their text, or why there is none. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int order(const void *left, const void *right) { return strcmp(left, right); }

int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
        int code = getaddrinfo(names[i], NULL, &hints, &found);
        char texts[64][INET6_ADDRSTRLEN];
        int total = 0;
        for (struct addrinfo *at = found; code == 0 && at && total < 64; at = at->ai_next) {
            const void *address = at->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                                                           : (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
            inet_ntop(at->ai_family, address, texts[total++], sizeof texts[0]);
        }
        qsort(texts, total, sizeof texts[0], order);
        printf("%s", names[i]);
        for (int j = 0; j < total; j++) printf(" %s", texts[j]);
        /* -5 is EAI_NODATA, which headers hide: glibc's word where a server says that a name has no address. */
        int absent = code == EAI_NONAME || code == -5;
        printf("%s%s\n", code ? " " : "", code == 0 ? "" : absent ? "NONAME" : code == EAI_AGAIN ? "AGAIN" : gai_strerror(code));
        if (found) freeaddrinfo(found);
    }
    return 0;
}
