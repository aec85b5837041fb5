# The controller's image from the root file system that `npm run image` assembles: Node, the C library, one bundle and its
# migrations; no shell, no package manager. Built by docker or buildah, whichever there is.
FROM scratch
COPY . /
USER 65532:65532
ENV NODE_ENV=production
ENTRYPOINT ["/usr/bin/node", "--enable-source-maps", "/usr/lib/nkudo/nkudo-controller.mjs"]
CMD ["serve"]
